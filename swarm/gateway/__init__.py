"""What answers over HTTP. `app.py` puts it together; each room imports only the rooms below it."""
