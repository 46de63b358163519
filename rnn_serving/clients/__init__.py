"""What the clients share: load, grading and reports; JSON over HTTP, REST and Classify; the check of a signature."""
