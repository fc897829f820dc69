"""What is measured, runnable by anyone: ``make bench``; ``JSON=1`` gives a line a result."""
