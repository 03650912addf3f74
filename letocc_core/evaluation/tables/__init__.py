"""The papers' tables: what they print (`published.yaml`), how each is measured (`protocol`), our figures beside them."""
