"""HDF5 files as robomimic, LIBERO and ALOHA write them."""
