# Of workerd: one worker, on any free port.
using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  services = [(name = "main", worker = .worker)],
  sockets = [(name = "http", address = "127.0.0.1:0", http = (), service = "main")]
);

const worker :Workerd.Worker = (
  modules = [
    (name = "edge.js", esModule = embed "edge.js"),
    (name = "fused-preference-loss.wasm", wasm = embed "fused-preference-loss.wasm")
  ],
  compatibilityDate = "2026-01-01"
);
