"""The console page: three files, no build step."""
