"""The learned parts as functions of plain tensors (`graphs`), and other engines in their place (`backends`)."""
