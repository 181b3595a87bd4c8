"""The embedded data set: songs that are composed, sung and rendered here."""
