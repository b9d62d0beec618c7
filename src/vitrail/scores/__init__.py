"""How good answers are: pure functions of answers and truth. No model, no file, no device."""
