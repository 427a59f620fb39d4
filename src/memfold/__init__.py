"""memfold: long documents folded into small memories that a language model answers from."""
