"""Other stream processors at the same work: each a program that reads one topic and writes another.

They are told by environment variables where (``benchmarks/race.py``), and say on their output when their
deserialiser is first called. What they need is fetched into the cache folder, as it is locked here.
"""
