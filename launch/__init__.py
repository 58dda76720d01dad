"""The macedance command."""
