"""Who looks after it: command line, settings, local stack."""
