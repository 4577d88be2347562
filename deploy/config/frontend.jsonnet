// bb_storage that clients connect to: it passes blobs on to the storage and executions on
// to the scheduler. Clients cannot write the action cache: only workers do.
local common = import 'common.libsonnet';

local storage = { grpc: { client: { address: 'storage:8981' } } };
local requestMetadata = 'build.bazel.remote.execution.v2.requestmetadata-bin';

{
  grpcServers: [common.server(':8980')],
  maximumMessageSizeBytes: common.maximumMessageSizeBytes,
  global: common.global,
  // Every instance name goes to the one scheduler.
  schedulers: {
    '': {
      endpoint: {
        address: 'scheduler:8982',
        // By it the scheduler tells builds apart, which get equal shares of the workers.
        addMetadataJmespathExpression: {
          expression: '{"%s": incomingGRPCMetadata."%s"}' % [requestMetadata, requestMetadata],
        },
      },
    },
  },
  executeAuthorizer: { allow: {} },
  contentAddressableStorage: {
    backend: storage,
    getAuthorizer: { allow: {} },
    putAuthorizer: { allow: {} },
    findMissingAuthorizer: { allow: {} },
  },
  actionCache: {
    // A result counts only if everything it names is there.
    backend: {
      completenessChecking: { backend: storage, maximumTotalTreeSizeBytes: 64 * 1024 * 1024 },
    },
    getAuthorizer: { allow: {} },
    putAuthorizer: { deny: {} },
  },
}
