# docker build -t flowsep . && docker run --rm -v "$PWD/out:/flowsep/book/_build" flowsep
# A GPU box adds --gpus all; the torch of requirements.lock brings its CUDA libraries.
FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends git make && rm -rf /var/lib/apt/lists/*
WORKDIR /flowsep
COPY . .
RUN make env
CMD ["make", "book"]
