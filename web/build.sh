#!/bin/sh
# Put the static page together in web/dist: the page, onnxruntime-web from npm, and the exported defence.
# Usage: web/build.sh [PRESET or folder written by 'mspd export onnx'], by default photo. Needs npm and 'mspd[onnx]'.
set -eu
defence=${1:-photo}
if [ -d "$defence" ]; then defence=$(cd "$defence" && pwd); fi
cd "$(dirname "$0")"

npm install --silent --no-audit --no-fund --no-package-lock --ignore-scripts
rm -rf dist
mkdir -p dist/ort
cp page/* dist/
cd node_modules/onnxruntime-web
cp dist/ort.wasm.min.mjs dist/ort-wasm-simd-threaded.mjs dist/ort-wasm-simd-threaded.wasm ../../dist/ort/
cp dist/ort.webgpu.min.mjs dist/ort-wasm-simd-threaded.asyncify.mjs dist/ort-wasm-simd-threaded.asyncify.wasm ../../dist/ort/
cd ../..
if [ -d "$defence" ]; then
    mkdir dist/model
    cp "$defence/defense.onnx" "$defence/defense.json" dist/model/
else
    mspd export onnx --preset "$defence" -o dist/model
fi
echo "web/dist is ready; serve it with any static file server, for example: python3 -m http.server -d web/dist"
