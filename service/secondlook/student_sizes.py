"""The sizes that a student may have; what each is made of is in ``distill.model``."""

STUDENT_SIZES = ("pico", "nano", "small")
"""From the smallest to the largest."""
USUAL_SIZE = "pico"
"""Where nobody asks for another one: it alone has an embedded start."""
