"""From valued posts to an ordered slate: what competes, who may see it, and the loop that fills the slots."""
