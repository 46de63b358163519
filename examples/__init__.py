"""Other models, served by the servers of the steps; each folder has a README."""
