"""Who is told: publish, tail, replay, fan out, encode."""
