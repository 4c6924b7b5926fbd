#!/usr/bin/env bash
# The two roles that cluster.yaml names: `bash deploy/aws-iam.sh BUCKET`, once per account, with credentials that may make roles.
# A second call makes what a first one could not, and replaces the policies by those below.
#
# sweeper-worker may list, read, write and delete in the bucket. sweeper-head may that too, and start and end EC2 instances, handing them
# sweeper-worker and nothing stronger. Run by the authors with a stand-in for `aws`; never on AWS itself.
set -euo pipefail
bucket=${1:?"usage: bash deploy/aws-iam.sh BUCKET"}

trust='{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}]}'
store='{"Version": "2012-10-17", "Statement": [
  {"Effect": "Allow", "Action": ["s3:ListBucket", "s3:GetBucketLocation"], "Resource": "arn:aws:s3:::'$bucket'"},
  {"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"],
   "Resource": "arn:aws:s3:::'$bucket'/*"}]}'

for name in sweeper-worker sweeper-head; do
  aws iam get-role --role-name "$name" > /dev/null 2>&1 || aws iam create-role --role-name "$name" --assume-role-policy-document "$trust"
  aws iam put-role-policy --role-name "$name" --policy-name results --policy-document "$store"
  aws iam get-instance-profile --instance-profile-name "$name" > /dev/null 2>&1 || aws iam create-instance-profile --instance-profile-name "$name"
  roles=$(aws iam get-instance-profile --instance-profile-name "$name" --query 'InstanceProfile.Roles[].RoleName' --output text)
  [[ $roles == "$name" ]] || aws iam add-role-to-instance-profile --instance-profile-name "$name" --role-name "$name"
done

worker=$(aws iam get-role --role-name sweeper-worker --query Role.Arn --output text)
aws iam attach-role-policy --role-name sweeper-head --policy-arn arn:aws:iam::aws:policy/AmazonEC2FullAccess
pass='{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["iam:PassRole", "iam:GetInstanceProfile"],
  "Resource": ["'$worker'", "arn:aws:iam::*:instance-profile/sweeper-worker"]}]}'
aws iam put-role-policy --role-name sweeper-head --policy-name workers --policy-document "$pass"
