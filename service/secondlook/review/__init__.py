"""What was kept, used again: decided anew, compared, explained, and asked once more."""
