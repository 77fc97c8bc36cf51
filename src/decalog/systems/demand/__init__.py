"""Demand: order what will be wanted until the next delivery, by what too much and too little cost."""
