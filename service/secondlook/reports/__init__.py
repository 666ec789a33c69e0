"""What people look at: the gallery of a run and the report of a distillation, as HTML files."""
