"""HTTP itself: connections, who may ask, bounds, bodies, errors. Nothing here knows an API's shapes or a vote."""
