"""The options files, installed as package ``cir_options`` so that ``-opt NAME.yml`` finds them."""
