"""`wvq app`: what the application computes, as plain functions; `page/` shows it."""
