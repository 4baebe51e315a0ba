"""Recipe `consult`: a patient's question to an answer as a hierarchical list, the answer itself first."""
