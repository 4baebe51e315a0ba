"""Recipe `specialty`: questions of medical specialties, learned progressively: the weak ones get more samples."""
