"""The five wire shapes from the provider's side, a file each with the same parts."""
