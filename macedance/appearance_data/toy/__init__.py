"""The toy corpus of the Appearance Expert: people of many builds and clothes, dancing before textured rooms."""
