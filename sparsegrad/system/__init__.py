"""Files, memory and quantities: what is not our purpose and each room needs."""
