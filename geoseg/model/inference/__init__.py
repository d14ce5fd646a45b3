"""Feed a network with the tiles of many threads: batches, devices, transfers, augmentation."""
