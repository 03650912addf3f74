"""Streets that vary as reality does: land, lanes, houses and weather, and the robots that see them."""
