#!/usr/bin/env bash
# What cluster.yaml needs of an AWS account: two roles, and the firewall (security group) of its machines. With credentials that may make these:
#   bash deploy/aws-account.sh BUCKET REGION CIDR        # such as: our-bucket us-west-2 203.0.113.7/32
# BUCKET is the bucket's name, REGION that of cluster.yaml, CIDR the addresses that may log in: mostly your own, which
# `curl https://checkip.amazonaws.com` prints, and /32. A second call makes what a first one could not, replaces the policies by those below, and
# leaves the group the two rules below alone: so also when your address has changed.
#
# sweeper-worker may list, read, write and delete in the bucket. sweeper-head may that too, and give machines sweeper-worker and nothing stronger;
# by AmazonEC2FullAccess it may start, change and delete every machine, volume and network of the account, not only this cluster's.
#
# The group lets in ssh from CIDR and everything from within the group, nothing else. Ray takes a group of this name that has rules as it is, but
# looks for it in the network (VPC) of the subnet that it picks, any that gives public addresses; so each such network of the region gets one. In
# most accounts that is the default network alone.
#
# Tried by the authors on a simulated AWS; never on AWS itself.
set -euo pipefail
export AWS_PAGER=  # else what a call answers waits in a pager

stop() {
  echo "$1" >&2
  exit 2
}
[[ $# == 3 ]] || stop "usage: bash deploy/aws-account.sh BUCKET REGION CIDR, such as: our-bucket us-west-2 203.0.113.7/32"
bucket=$1 region=$2 name=ray-autoscaler-sweeper
[[ $bucket =~ ^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$ ]] || stop "BUCKET must be the name of a bucket, without s3://, got '$bucket'"
[[ $region =~ ^[a-z]+(-[a-z]+)+-[0-9]+$ ]] || stop "REGION must be a region of AWS, such as us-west-2, got '$region'"

wrong="CIDR must be the IPv4 addresses that may log in, from /8 to /32, such as 203.0.113.7/32, got '$3'"
[[ $3 =~ ^([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,3})/([0-9]{1,2})$ ]] || stop "$wrong"
address=0 length=$((10#${BASH_REMATCH[5]}))
for part in "${BASH_REMATCH[@]:1:4}"; do
  ((10#$part <= 255)) || stop "$wrong"
  address=$((address << 8 | 10#$part))
done
((length >= 8 && length <= 32)) || stop "$wrong"
address=$((address >> (32 - length) << (32 - length)))  # as AWS keeps it: 203.0.113.7/24 is 203.0.113.0/24
cidr=$((address >> 24)).$((address >> 16 & 255)).$((address >> 8 & 255)).$((address & 255))/$length

trust='{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}]}'
store='{"Version": "2012-10-17", "Statement": [
  {"Effect": "Allow", "Action": ["s3:ListBucket", "s3:GetBucketLocation"], "Resource": "arn:aws:s3:::'$bucket'"},
  {"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"],
   "Resource": "arn:aws:s3:::'$bucket'/*"}]}'

for role in sweeper-worker sweeper-head; do
  aws iam get-role --role-name "$role" > /dev/null 2>&1 || aws iam create-role --role-name "$role" --assume-role-policy-document "$trust"
  aws iam put-role-policy --role-name "$role" --policy-name results --policy-document "$store"
  aws iam get-instance-profile --instance-profile-name "$role" > /dev/null 2>&1 || aws iam create-instance-profile --instance-profile-name "$role"
  roles=$(aws iam get-instance-profile --instance-profile-name "$role" --query 'InstanceProfile.Roles[].RoleName' --output text)
  [[ $roles == "$role" ]] || aws iam add-role-to-instance-profile --instance-profile-name "$role" --role-name "$role"
done

worker=$(aws iam get-role --role-name sweeper-worker --query Role.Arn --output text)
aws iam attach-role-policy --role-name sweeper-head --policy-arn arn:aws:iam::aws:policy/AmazonEC2FullAccess
pass='{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["iam:PassRole", "iam:GetInstanceProfile"],
  "Resource": ["'$worker'", "arn:aws:iam::*:instance-profile/sweeper-worker"]}]}'
aws iam put-role-policy --role-name sweeper-head --policy-name workers --policy-document "$pass"

ec2() {
  aws ec2 "$@" --region "$region"
}
networks=$(ec2 describe-subnets --query 'Subnets[?MapPublicIpOnLaunch].VpcId' --output text | tr '\t' '\n' | sort -u)
[[ $networks ]] || stop "$region has no subnet that gives machines a public address; \`aws ec2 create-default-vpc --region $region\` makes them"

rules() {  # ids of the group's inbound rules for which a condition holds
  ec2 describe-security-group-rules --filters "Name=group-id,Values=$group" --query "SecurityGroupRules[?!IsEgress && ($1)].SecurityGroupRuleId" \
    --output text
}
for network in $networks; do
  group=$(ec2 describe-security-groups --filters "Name=vpc-id,Values=$network" "Name=group-name,Values=$name" \
    --query 'SecurityGroups[].GroupId' --output text)
  [[ $group ]] || group=$(ec2 create-security-group --group-name "$name" --vpc-id "$network" --query GroupId --output text \
    --description "Machines of cluster.yaml: ssh from one range, everything within the group")
  within="IpProtocol == '-1' && ReferencedGroupInfo.GroupId == '$group'"
  login="IpProtocol == 'tcp' && FromPort == \`22\` && ToPort == \`22\` && CidrIpv4 == '$cidr'"
  known=$(rules "$within")
  [[ $known ]] || ec2 authorize-security-group-ingress --group-id "$group" --protocol all --source-group "$group"
  known=$(rules "$login")
  [[ $known ]] || ec2 authorize-security-group-ingress --group-id "$group" --protocol tcp --port 22 --cidr "$cidr"
  others=$(rules "!($within) && !($login)")
  [[ -z $others ]] || ec2 revoke-security-group-ingress --group-id "$group" --security-group-rule-ids $others
  echo "$name ($group in $network) lets in ssh from $cidr"
done
