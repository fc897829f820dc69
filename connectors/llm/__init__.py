"""Language-model providers: a request event goes in, tokens come out as our contract, each attempt on record.

A reader goes down these once: ``worker`` (requests of Kafka) → ``operation`` (attempts until one is good) →
``plan`` (route, prompt, budget) → ``attempt`` (one call, its timers) → ``providers`` (a wire shape each) →
``gates`` → ``emitter`` (deltas as events) → ``ledger`` (what was paid).
"""
