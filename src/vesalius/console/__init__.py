"""What a person meets in the terminal."""
