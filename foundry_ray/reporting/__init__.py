"""How results look: tables for the terminal, one HTML page for everybody else. Reads typed values, decides nothing."""
