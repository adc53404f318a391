"""What every floor needs and no floor owns: errors, files, recipes, run directories, logging, progress, hardware."""
