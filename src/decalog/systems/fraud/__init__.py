"""Fraud: allow, block, review or step up a payment, by expected cost."""
