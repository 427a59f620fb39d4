"""Entry point of `python -m memfold`, which `torchrun -m memfold train` needs."""

from memfold.cli.main import run

if __name__ == "__main__":
    run()
