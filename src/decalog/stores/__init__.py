"""Ports and the engines behind them. The spine receives ports; only `table` knows which engine a short name means."""
