"""Serves moto's S3 for tests: the bucket `pictures` holds the files of a folder under their names.

    python s3_server.py FOLDER

Prints its address once it is up, and ends when its standard input closes."""

import sys
from pathlib import Path

import boto3
from moto.server import ThreadedMotoServer


def main(folder):
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    client = boto3.client("s3", endpoint_url=address, region_name="us-east-1",
                          aws_access_key_id="testing", aws_secret_access_key="testing")
    client.create_bucket(Bucket="pictures")
    for file in sorted(Path(folder).iterdir()):
        client.put_object(Bucket="pictures", Key=file.name, Body=file.read_bytes())
    print(address, flush=True)
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    main(sys.argv[1])
