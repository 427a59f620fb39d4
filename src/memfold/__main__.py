"""`python -m memfold`, as `torchrun -m memfold train` needs it."""

from memfold.cli.main import run

if __name__ == "__main__":
    run()
