"""What turns notes into scored codes: one protocol, several engines."""
