"""Rules that fraud teams write: the language, what it may read, the rule set, its backtest, and suggestions."""
