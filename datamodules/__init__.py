"""LightningDataModules over sharded tars."""
