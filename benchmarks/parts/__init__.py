"""What is measured. A part is a function that yields figures; its docstring says what they mean."""
