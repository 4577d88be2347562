// bb_storage that keeps the blobs: for the front, the scheduler and the workers. Whoever
// can connect here can write the action cache, so keep it from clients.
local common = import 'common.libsonnet';

local GiB = 1024 * 1024 * 1024;
local MiB = 1024 * 1024;

// A ring of blocks in one file, and in another the places of what is in it. A blob fits
// if it is no larger than a block: bytes / (8 + 24 + newBlocks + 3).
local ring(directory, bytes, mapBytes, newBlocks) = {
  'local': {
    keyLocationMapOnBlockDevice: {
      file: { path: directory + '/key_location_map', sizeBytes: mapBytes },
    },
    keyLocationMapMaximumGetAttempts: 16,
    keyLocationMapMaximumPutAttempts: 64,
    oldBlocks: 8,
    currentBlocks: 24,
    newBlocks: newBlocks,
    blocksOnBlockDevice: {
      source: { file: { path: directory + '/blocks', sizeBytes: bytes } },
      spareBlocks: 3,
    },
    // It survives a restart.
    persistent: { stateDirectoryPath: directory, minimumEpochInterval: '300s' },
  },
};

{
  grpcServers: [common.server(':8981')],
  maximumMessageSizeBytes: common.maximumMessageSizeBytes,
  global: common.global,
  contentAddressableStorage: {
    backend: ring('/storage-cas', 40 * GiB, 512 * MiB, 3),
    getAuthorizer: { allow: {} },
    putAuthorizer: { allow: {} },
    findMissingAuthorizer: { allow: {} },
  },
  actionCache: {
    backend: ring('/storage-ac', 1 * GiB, 64 * MiB, 1),
    getAuthorizer: { allow: {} },
    putAuthorizer: { allow: {} },
  },
}
