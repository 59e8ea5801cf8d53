"""Model back ends, one file each; heavy imports stand only inside the file that needs them."""
