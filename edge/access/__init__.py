"""Who asks, what they may do, and how much of it: keys, tokens, revocations, quotas, origins."""
