"""What tests share: oracles, plain references, published formats."""
