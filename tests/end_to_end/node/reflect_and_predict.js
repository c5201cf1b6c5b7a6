// Learns everything of a server from its reflection service, calls it, and prints what it got as JSON.
//
//   node reflect_and_predict.js <host:port> <v1 | v1alpha>

"use strict";

const grpc = require("@grpc/grpc-js");
const { GrpcReflection } = require("grpc-js-reflection-client");

const [address, protocol] = process.argv.slice(2);
const credentials = grpc.credentials.createInsecure();
const SERVICE = "tensorflow.serving.PredictionService";

function predict(stub, request) {
  return new Promise((resolve) => {
    stub.Predict(request, { deadline: Date.now() + 30000 }, (error, response) => {
      resolve(error ? { code: error.code, details: error.details } : response);
    });
  });
}

// Made from descriptors, protobufjs 7 knows a map only as what it is on the wire: entries of key and value.
async function main() {
  const reflection = new GrpcReflection(address, credentials, {}, protocol);
  const services = await reflection.listServices();
  const methods = (await reflection.listMethods(SERVICE)).map((method) => method.name);
  const descriptor = await reflection.getDescriptorBySymbol(SERVICE);
  const packages = descriptor.getPackageObject({ keepCase: true, enums: String, longs: String, defaults: true });
  const stub = new packages.tensorflow.serving.PredictionService(address, credentials);
  const floats = (values) => ({
    dtype: "DT_FLOAT",
    tensor_shape: { dim: [{ size: values.length }] },
    float_val: values,
  });
  const answer = await predict(stub, {
    model_spec: { name: "half_plus_two", version: { value: 1 } },
    inputs: [{ key: "x", value: floats([1, 2, 5]) }],
  });
  const refusal = await predict(stub, { model_spec: { name: "none" } });
  console.log(JSON.stringify({ services, methods, answer, refusal }));
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  }
);
