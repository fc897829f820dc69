"""What tests share: workers, clients and checkers."""
