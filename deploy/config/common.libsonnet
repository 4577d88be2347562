// What both bb_storage processes have in common.
{
  // Below the 4 MiB at which gRPC refuses a message, what is around blobs included.
  maximumMessageSizeBytes: 2 * 1024 * 1024,

  global: {
    diagnosticsHttpServer: {
      httpServers: [{
        listenAddresses: [':9980'],
        authenticationPolicy: { allow: {} },
      }],
      enablePrometheus: true,
    },
  },

  // Where gRPC is served, to everybody who can connect.
  server(address): {
    listenAddresses: [address],
    authenticationPolicy: { allow: {} },
  },
}
